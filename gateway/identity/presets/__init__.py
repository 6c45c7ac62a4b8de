"""What is true of every token of a platform: one small file each, listed in ``gateway.kinds``."""
