"""What a model has to beat: simple methods with one protocol, fitted on raw counts in seconds."""
