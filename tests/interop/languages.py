"""The languages that take part."""

LANGUAGES = ["python", "go", "java", "node"]
