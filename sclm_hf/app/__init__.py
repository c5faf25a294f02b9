"""The demo app: cells in, what a model says of them on a page. Only `page` needs gradio."""
