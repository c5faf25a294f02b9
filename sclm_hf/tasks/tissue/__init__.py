"""What tissue needs: where cells lie, their neighbours, and domains."""
