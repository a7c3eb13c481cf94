"""CCE Studio: the web app, from services that call cce to the tabs that show them."""
