"""The name `inference_models`, answered by perception-encoder.

    from inference_models import AutoModel

    model = AutoModel.from_pretrained("perception-encoder/PE-Core-B16-224")
    embedding = model.embed_image(cv2.imread("cat.jpg"))  # (1, E) tensor of unit length

Code written for Roboflow's `inference-models` package runs unchanged as far as it embeds images
and words. Modules lie where the original has them. Images and weights are perception-encoder's
business; nothing of that is here.
"""

from typing import NoReturn

from inference_models._beside_original import refuse_to_shadow

refuse_to_shadow()

from inference_models._absent import explain_absence  # noqa: E402
from inference_models.entities import ColorFormat  # noqa: E402
from inference_models.models.auto_loaders.core import AutoModel  # noqa: E402
from inference_models.models.auto_loaders.entities import BackendType  # noqa: E402
from inference_models.models.base.embeddings import TextImageEmbeddingModel  # noqa: E402
from inference_models.weights_providers.entities import Quantization  # noqa: E402

__version__ = "0.2.0"

__all__ = [
    "AutoModel",
    "BackendType",
    "ColorFormat",
    "Quantization",
    "TextImageEmbeddingModel",
]

# What else the original offers under this name: other tasks than embedding.
_ABSENT = {
    "ActionRecognitionModel",
    "ActionRecognitionPrediction",
    "AnyModel",
    "AutoModelPipeline",
    "ClassificationModel",
    "ClassificationPrediction",
    "Confidence",
    "DepthEstimationModel",
    "Detections",
    "ImageEmbeddingModel",
    "InstanceDetections",
    "InstanceSegmentationMaskFormat",
    "InstanceSegmentationModel",
    "InstancesRLEMasks",
    "KeyPoints",
    "KeyPointsDetectionModel",
    "MultiLabelClassificationModel",
    "MultiLabelClassificationPrediction",
    "ObjectDetectionModel",
    "OfflineArtefactStatus",
    "OfflineArtefactVerification",
    "OfflineModelStatus",
    "OfflinePackagePresence",
    "OfflinePackageStatus",
    "OpenVocabularyObjectDetectionModel",
    "PreProcessingOverrides",
    "SemanticSegmentationModel",
    "StructuredOCRModel",
    "TextOnlyOCRModel",
    "VideoSampling",
    "find_cached_model_package_dir",
}


def __getattr__(name: str) -> NoReturn:
    explain_absence(__name__, name, _ABSENT)
