"""One file per data format; `trainer.data.loader.FORMATS` is the registry."""
