"""Data: data sets, class folders and pictures as uint8 images, and what changes or fetches them."""
