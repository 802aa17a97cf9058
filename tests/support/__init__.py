"""What journeys stand on: the local stack (``stack.py``) and a browser without a screen (``user_agent.py``)."""
