"""What the collators do, step by step in torch, all numbers drawn for all positions: slow, and easy to check.

Streams stand here by their numbers, which must never change.
"""

import torch
from scipy.special import betaincinv
from scipy.stats import binom

from sclm_hf.tokenization.encodings.keys import cell_keys, uniforms_for

IGNORED = -100


def uniforms(collator, batch, epoch, stream, counters):
    counters = counters.numpy() if isinstance(counters, torch.Tensor) else counters
    return torch.as_tensor(uniforms_for(cell_keys(batch["cell_ids"].numpy(), collator.seed, epoch), stream, counters))


def ratios(collator, batch, epoch):
    choices = collator._choices
    cells = {"cell_ids": batch["cell_ids"] if collator.ratio_per == "cell" else batch["cell_ids"][:1]}
    index = (uniforms(collator, cells, epoch, 3, 1)[:, 0] * len(choices)).long()
    return torch.tensor(choices, dtype=torch.float64)[index].expand(len(batch["cell_ids"]))


def not_special(collator, batch):
    special = torch.isin(batch["input_ids"], torch.tensor(collator.special_token_ids, dtype=torch.long))
    return batch["attention_mask"].bool() & ~special


def choose(collator, batch, epoch, allowed, shares, rounding="down"):
    scores = uniforms(collator, batch, epoch, 2, batch["input_ids"]).masked_fill(~allowed, torch.inf)
    n_allowed = allowed.sum(1)
    up = rounding == "up"
    n_drawn = (n_allowed.float() * shares.float()).ceil() if up else (n_allowed.double() * shares).floor()
    return scores.argsort(dim=1, stable=True).argsort(dim=1) < n_drawn[:, None]


def pack(chosen, rows, fills):
    order = chosen.logical_not().argsort(dim=1, stable=True)
    width = max(1, int(chosen.sum(1).max()))
    filled = torch.arange(width) >= chosen.sum(1, keepdim=True)
    order = order[:, :width]
    return [row.gather(1, order).masked_fill(filled, fill) for row, fill in zip(rows, fills, strict=True)]


def without(batch, *names):
    return {name: tensor for name, tensor in batch.items() if name not in names}


def masked_expression(collator, batch, epoch):
    values, maskable = batch["expression_values"], not_special(collator, batch)
    if not collator.mask_zeros:
        maskable &= values != 0
    drawn = choose(collator, batch, epoch, maskable, ratios(collator, batch, epoch), collator.rounding)
    masked = drawn & (uniforms(collator, batch, epoch, 8, batch["input_ids"]) < collator.replace_ratio)
    return without(batch, "cell_ids", "labels") | {
        "expression_values": values.masked_fill(masked, collator.mask_value),
        "labels": values.float().masked_fill(~drawn, IGNORED),
    }


def generative_expression(collator, batch, epoch):
    real = batch["attention_mask"].bool()
    generated = choose(collator, batch, epoch, not_special(collator, batch), ratios(collator, batch, epoch))
    ids, values = batch["input_ids"], batch["expression_values"].float()
    fills = (collator.pad_token_id, collator.pad_value, 0)
    known_ids, known_values, known_mask = pack(real & ~generated, (ids, values, real.long()), fills)
    fills = (collator.pad_token_id, IGNORED, 0)
    generation_ids, targets, generation_mask = pack(generated, (ids, values, real.long()), fills)
    inputs = {
        "input_ids": known_ids,
        "expression_values": known_values,
        "attention_mask": known_mask,
        "generation_ids": generation_ids,
        "generation_attention_mask": generation_mask,
        "labels": torch.cat([torch.full_like(known_values, IGNORED), targets], dim=1),
    }
    return inputs | {name: batch[name] for name in ("batch_labels",) if name in batch}


def masked_genes(collator, batch, epoch):
    ids, maskable = batch["input_ids"].long(), not_special(collator, batch)
    if collator.mask_special_tokens:
        never = torch.tensor([collator.pad_token_id, collator.mask_token_id])
        maskable = batch["attention_mask"].bool() & ~torch.isin(ids, never)
    choosing, hiding, changing, tokens = (uniforms(collator, batch, epoch, stream, ids) for stream in (2, 5, 6, 7))
    chosen = maskable & (choosing < ratios(collator, batch, epoch)[:, None])
    hidden = chosen & (hiding < collator.replace_ratio)
    changed = chosen & ~hidden & (changing < collator.random_ratio)
    others = (tokens * collator.vocab_size).long()
    return without(batch, "cell_ids", "labels") | {
        "input_ids": torch.where(changed, others, ids.masked_fill(hidden, collator.mask_token_id)),
        "labels": ids.masked_fill(~chosen, IGNORED),
    }


def next_gene(collator, batch, epoch):
    labels = batch["input_ids"].long().masked_fill(~batch["attention_mask"].bool(), IGNORED)
    labels[:, 0] = IGNORED
    return without(batch, "cell_ids", "labels") | {"labels": labels}


def masked_samples(collator, batch, epoch):
    if collator.vocab_size is not None:
        values = batch["expression_values"]
        every = values.new_zeros(len(values), collator.vocab_size).index_copy(1, batch["input_ids"], values)
        batch = batch | {"input_ids": torch.arange(collator.vocab_size), "expression_values": every}
    draws, values = uniforms(collator, batch, epoch, 13, 2), batch["expression_values"]
    chosen = torch.zeros(len(draws), dtype=torch.bool)
    chosen[draws[:, 0].argsort(stable=True)[: max(1, int(len(draws) * collator.cell_ratio))]] = True
    rates = torch.full((len(draws),), collator.mask_ratio, dtype=torch.float64)
    if collator.vary_ratio:
        rates = torch.as_tensor(betaincinv(5.0, 4 / collator.mask_ratio - 3, draws[:, 1].numpy())).clamp(max=0.9)
    genes = batch["input_ids"].expand(len(draws), -1)
    masked = (uniforms(collator, batch, epoch, 2, genes) <= rates[:, None]) & chosen[:, None]
    return without(batch, "cell_ids", "labels") | {
        "masked_positions": masked,
        "expression_values": values.masked_fill(masked, 0),
        "labels": values.float().masked_fill(~masked.any(1, keepdim=True), IGNORED),
    }


def read_depth(collator, batch, epoch):
    size, ids = collator.target_token_id, batch["input_ids"]
    slots = ids.masked_fill(batch["attention_mask"] == 0, size).clamp(max=size)
    panel = torch.zeros(len(ids), size + 1, dtype=torch.float64)
    panel = panel.scatter(1, slots, batch["expression_values"].double())[:, :size]
    totals = (10 ** batch["expression_values"][ids == size + 1].double()).round()
    genes = torch.arange(size).expand(len(ids), -1)
    choosing, amounts = uniforms(collator, batch, epoch, 12, 2).T
    amounts = torch.from_numpy(betaincinv(2.0, 2.0, amounts.numpy()))
    rates = torch.where(choosing < collator.thin_ratio, amounts, 1.0)
    kept, left = thinned(collator, panel, totals, rates, uniforms(collator, batch, epoch, 11, genes))
    choosing, hiding, others = (uniforms(collator, batch, epoch, stream, genes) for stream in (2, 9, 10))
    expressed = kept > 0
    drawn = choosing < torch.where(expressed, collator.value_ratio, collator.zero_ratio)
    hidden = drawn & (hiding < collator.replace_ratio)
    replaced = drawn & ~hidden & (hiding < collator.replace_ratio + collator.random_ratio)
    by_rank = kept.gather(1, (~expressed).long().argsort(dim=1, stable=True))
    number = (others * expressed.sum(1, keepdim=True)).long()
    seen = torch.where(replaced, by_rank.gather(1, number), kept)
    depths = torch.stack([totals.log10(), left.log10()], dim=1)
    told = torch.cat([seen.masked_fill(hidden, collator.mask_value), depths], dim=1).float()
    cells = []
    for values, depth in zip(seen.masked_fill(hidden, 0.0), depths, strict=True):
        here = values.nonzero()[:, 0]
        both = torch.tensor([size, size + 1])
        cell = {"input_ids": torch.cat([here, both]), "expression_values": torch.cat([values[here], depth]).float()}
        cells.append(cell | {"attention_mask": torch.ones(len(here) + 2, dtype=torch.long)})
    fills = {"input_ids": collator.pad_token_id, "expression_values": collator.pad_value, "attention_mask": 0}
    tokens = {
        name: torch.nn.utils.rnn.pad_sequence([cell[name] for cell in cells], batch_first=True, padding_value=fill)
        for name, fill in fills.items()
    }
    return tokens | {"decoder_expression_values": told, "labels": panel.masked_fill(~drawn, IGNORED).float()}


def thinned(collator, panel, totals, rates, draws):
    counts = (panel.expm1() * (totals / collator.target_sum)[:, None]).round()
    left = torch.from_numpy(binom.ppf(draws.numpy(), counts.numpy(), rates[:, None].numpy()))
    left = left.masked_fill(counts == 0, 0.0)
    whole = (rates >= 1) | (left.sum(1) <= 1)
    left_totals = torch.where(whole, totals, left.sum(1))
    values = torch.log1p(left / left_totals[:, None] * collator.target_sum)
    return torch.where(whole[:, None], panel, values), left_totals
