"""Learned autofocus for scanning electron microscopes, as a plugin of `semdrivers`."""
