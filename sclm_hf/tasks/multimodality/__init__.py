"""What `multimodal` needs: the other modality, predictors and their scores, the joint embedding, the saved head."""
