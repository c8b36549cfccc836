"""A trained model as a web page and an HTTP API; needs the extra `serve`.

app = detseg.serve.app.create_app(detseg.load("runs/detector-1"))
"""
