"""What happens around learning."""
