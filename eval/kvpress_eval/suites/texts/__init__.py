"""What tasks are made of: small worlds, prose, reports, code, and the words around a question."""
