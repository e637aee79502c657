"""The demo world: rendered scenes and a simulated brain that looks at them."""
