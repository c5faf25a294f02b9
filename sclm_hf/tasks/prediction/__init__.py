"""What `predict_perturbation` needs: the screen of an AnnData, methods, tables and files."""
