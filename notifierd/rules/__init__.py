"""Pure decisions: who is due, when, what an outcome means, and what a person is notified of."""
