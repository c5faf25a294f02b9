"""The verbs in scanpy's manner: `sclm_hf.pp` and `sclm_hf.tl`, which add to an AnnData in place."""
