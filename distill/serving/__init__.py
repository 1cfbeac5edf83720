"""An HTTP server of an export: TensorFlow Serving's REST predict, and a page that shows why a keyphrase is there."""
