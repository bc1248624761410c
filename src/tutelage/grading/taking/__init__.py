"""What counts as the answer: of a response, of a worked solution, of whatever a row holds as its reference."""
