"""Token caches: every image of a set through the frozen backbone, once, whatever happens on the way."""
