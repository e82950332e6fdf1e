"""A pool of small pre-trained models, and what each is worth out of distribution."""
