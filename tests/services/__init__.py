"""Other people's services and programs: a double of their APIs, and the official ones."""
