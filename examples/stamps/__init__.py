"""Real pictures, words and sounds: clips from a Debian package, a model that learns from them, and what it learned."""
