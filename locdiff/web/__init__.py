"""A web page to try a model: answers, the server that gives them, and the page that asks for them."""
