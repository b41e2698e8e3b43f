"""Hooks that any config can use. This package imports none of them: mmengine.hooks needs OpenCV."""
