"""What comes in: images, masks, videos and questions, their labels, and how they are decoded."""
