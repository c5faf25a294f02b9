"""What imputation needs: scores on counts that were hidden, beside simple methods."""
