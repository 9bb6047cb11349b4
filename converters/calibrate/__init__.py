"""What a model does on a text: documents, the activations of its layers, what errors do to them."""
