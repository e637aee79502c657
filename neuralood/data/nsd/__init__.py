"""The Natural Scenes Dataset: official files of one subject."""
