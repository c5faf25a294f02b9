"""What retrieved evidence is worth, on real cells of a donor that the index does not hold.

Recall of the true type among labelled neighbours of other donors (cosine of PCA), and for comparison with the query's
own donor left in, which is a leak. Then a two-layer Llama with one token per gene and per
type, trained from scratch to label cells from their highest genes: without evidence, and with the labels of the
neighbours in the prompt, judged with the evidence found and with that of another cell. Beside it, PCA and z-scored
logistic regression on the same cells.

    python benchmarks/retrieval.py CELLS.h5ad --label cell_type --donor batch --test C149 --output FILE.json
"""

import argparse
import json
from pathlib import Path

import anndata
import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import accuracy_score, f1_score
from transformers import LlamaConfig, LlamaForCausalLM

from sclm_hf.evaluation.baselines.baseline import log1p_cp10k
from sclm_hf.evaluation.baselines.linear import PCALogisticRegression, ZScoredLogisticRegression
from sclm_hf.evaluation.text_metrics import recall_at_k
from sclm_hf.text.retrieval import Index
from sclm_hf.text.sentences import cell_sentences
from sclm_hf.tokenization.expression_matrix import select_counts

N_GENES, N_VARIABLE, K = 40, 2000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--donor", required=True)
    parser.add_argument("--test", required=True, help="the donor to label")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    cells = anndata.read_h5ad(arguments.cells)
    labels, donors = cells.obs[arguments.label].to_numpy(str), cells.obs[arguments.donor].to_numpy(str)
    is_test = donors == arguments.test
    counts, names, _, _ = select_counts(cells)
    sentences = cell_sentences(counts, names, case="keep")
    embeddings = principal_components(counts, ~is_test)
    index = Index.build(embeddings, labels, groups=donors)
    found = index.search(embeddings, groups=donors, k=K)
    leaky = index.search(embeddings, groups=["none"] * len(labels), k=K + 1)
    result = {
        "file": arguments.cells.name,
        "test_donor": arguments.test,
        "n_test": int(is_test.sum()),
        "recall": {
            f"@{k}": {
                "neighbours": recall_at_k(labels[is_test], kinds(found, "C", is_test), k),
                "own donor left in": recall_at_k(labels[is_test], [one[1:] for one in kinds(leaky, "C", is_test)], k),
            }
            for k in (1, 5, 10)
        },
    }
    result["baselines"] = baselines(counts, labels, is_test)
    short = [" ".join(one.split()[:N_GENES]) for one in sentences]
    evidence = kinds(found, "C", np.ones(len(labels), bool))
    result["language model"] = [language_model(short, evidence, labels, is_test, seed) for seed in arguments.seeds]
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def principal_components(counts, train: np.ndarray) -> np.ndarray:
    """PCA of the genes that vary most, fitted without the donor to label."""
    expression = log1p_cp10k(counts)
    means = np.asarray(expression[train].mean(axis=0)).ravel()
    variances = np.asarray(expression[train].power(2).mean(axis=0)).ravel() - means**2
    chosen = np.argsort(-variances)[:N_VARIABLE]
    dense = expression[:, chosen].toarray()
    return PCA(50, random_state=0).fit(dense[train]).transform(dense)


def baselines(counts, labels: np.ndarray, is_test: np.ndarray) -> dict[str, dict[str, float]]:
    """Scores of the strongest simple baselines, trained on the other donors."""
    found = {}
    for name, model in (("PCA + LR", PCALogisticRegression()), ("z-scored LR", ZScoredLogisticRegression())):
        model.fit(counts[~is_test], labels[~is_test])
        predicted = np.asarray(model.classes)[model.predict_log_proba(counts[is_test]).argmax(axis=1)]
        found[name] = scores(labels[is_test], predicted)
    return found


def kinds(found: list, kind: str, chosen: np.ndarray) -> list[list[str]]:
    """The labels of the documents of one kind."""
    return [[one.label for one in found[cell] if one.id.startswith(kind)] for cell in np.flatnonzero(chosen)]


def language_model(sentences, evidence, labels, is_test, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy and macro-F1 of models trained with and without evidence."""
    shuffled = [evidence[cell] for cell in np.random.default_rng(seed).permutation(len(evidence))]
    nothing = [[] for _ in evidence]
    types = sorted(set(labels))
    words = {"<pad>": 0, "<answer>": 1, **{f"<{one}>": number for number, one in enumerate(types, 2)}}
    for sentence in sentences:
        for word in sentence.split():
            words.setdefault(word, len(words))

    def prompts(given: list, chosen: np.ndarray) -> torch.Tensor:
        rows = [
            [*(words[f"<{one}>"] for one in given[cell]), *(words[word] for word in sentences[cell].split())]
            for cell in np.flatnonzero(chosen)
        ]
        width = max(map(len, rows))
        # the answer follows at one place, so the short ones are padded before their genes
        return torch.tensor([[0] * (width - len(row)) + row + [1] for row in rows])

    numbers = torch.tensor([words[f"<{one}>"] for one in labels])
    with_it = trained(prompts(evidence, ~is_test), numbers[~is_test], len(words), seed)
    without = trained(prompts(nothing, ~is_test), numbers[~is_test], len(words), seed)
    judged = {"without": (without, nothing), "with": (with_it, evidence), "shuffled": (with_it, shuffled)}
    return {
        name: scores(labels[is_test], answers(model, prompts(given, is_test), types))
        for name, (model, given) in judged.items()
    }


def trained(ids: torch.Tensor, answers: torch.Tensor, n_words: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=n_words,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    model, order = LlamaForCausalLM(config), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(6):
        for rows in torch.randperm(len(ids), generator=order).split(32):
            logits = model(ids[rows], attention_mask=(ids[rows] != 0).long(), logits_to_keep=1).logits[:, -1]
            torch.nn.functional.cross_entropy(logits, answers[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def answers(model: LlamaForCausalLM, ids: torch.Tensor, types: list[str]) -> np.ndarray:
    """The most likely type of each prompt."""
    with torch.inference_mode():
        logits = [
            model(rows, attention_mask=(rows != 0).long(), logits_to_keep=1).logits[:, -1] for rows in ids.split(256)
        ]
    return np.array(types)[torch.cat(logits)[:, 2 : 2 + len(types)].argmax(dim=1).numpy()]


def scores(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
    }


if __name__ == "__main__":
    main()
