"""The words of notifierd as frozen values."""
