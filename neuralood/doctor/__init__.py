"""Whether the user's data, weights and machine are as a run needs them, in seconds to minutes."""
