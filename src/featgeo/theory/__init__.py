"""The paper's mathematics as pure functions on tensors."""
