"""Jobs: records in the store, the controller that runs them, and the workers that do them."""
