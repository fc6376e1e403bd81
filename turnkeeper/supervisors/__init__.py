"""The supervisors: what starts, recovers and stops the actors; `Runtime` is the root."""
