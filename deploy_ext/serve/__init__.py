"""The serving runtime: protocol, runtime, app and supervisor, free of mlflow and Jupyter."""
