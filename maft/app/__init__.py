"""The app in a browser: a picture and words in, labels out. `maft.app.server.serve` opens it."""
