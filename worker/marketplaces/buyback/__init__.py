"""What a seller asks of the trade-in platform: how an order may be sent, to have it sent, whom to pay."""
