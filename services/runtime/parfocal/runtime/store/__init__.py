"""The store: its objects, names and manifests, local copies, publishing, and the trash."""
