"""The error tree of `inference-models`: the same names, the same parents.

Only some are raised here; code that catches the others must be able to name them.
"""


class BaseInferenceModelsError(Exception):
    """Base of all errors; may carry the address of a page that helps."""

    def __init__(self, message: str, help_url: str | None = None) -> None:
        super().__init__(message)
        self.help_url = help_url

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} - VISIT {self.help_url} FOR FURTHER SUPPORT" if self.help_url else text


class AssumptionError(BaseInferenceModelsError):
    """Not raised here."""


class EnvironmentConfigurationError(BaseInferenceModelsError):
    """No backend is installed, or the device is not on this machine."""


class ModelRuntimeError(BaseInferenceModelsError):
    """The model cannot do what was asked, such as reading text without a text tower."""


class ModelInputError(BaseInferenceModelsError):
    """An image or a text cannot be used."""


class RetryError(BaseInferenceModelsError):
    """The network failed; the same may work later."""


class RangeRequestNotSupportedError(BaseInferenceModelsError):
    """Not raised here."""


class UntrustedFileError(BaseInferenceModelsError):
    """A file would have to be downloaded without a hash to check it by."""


class FileHashSumMissmatch(BaseInferenceModelsError):
    """A downloaded file is not what its hash says."""


class InvalidEnvVariable(BaseInferenceModelsError):
    """Not raised here."""


class MissingDependencyError(BaseInferenceModelsError):
    """Not raised here."""


class InvalidParameterError(BaseInferenceModelsError):
    """A parameter cannot be understood."""


class PreloadedDependencyMismatchError(InvalidParameterError):
    """Not raised here."""


class ModelRetrievalError(BaseInferenceModelsError):
    """The model cannot be fetched."""


class ModelNotFoundError(ModelRetrievalError):
    """There is no model of that id."""


class UnauthorizedModelAccessError(ModelRetrievalError):
    """Not raised here: no key is needed."""


class PaymentRequiredModelAccessError(ModelRetrievalError):
    """Not raised here."""

    status_code = 402


class ForbiddenModelAccessError(ModelRetrievalError):
    """Not raised here."""

    status_code = 403


class UsagePausedModelAccessError(ModelRetrievalError):
    """Not raised here."""

    status_code = 423


class ModelMetadataConsistencyError(ModelRetrievalError):
    """Not raised here."""


class ModelMetadataHandlerNotImplementedError(ModelRetrievalError):
    """Not raised here."""


class ModelPackageNegotiationError(BaseInferenceModelsError):
    """No package of the model is what was asked for."""


class UnknownBackendTypeError(ModelPackageNegotiationError):
    """There is no backend of that name."""


class UnknownQuantizationError(ModelPackageNegotiationError):
    """There is no precision of that name."""


class InvalidRequestedBatchSizeError(ModelPackageNegotiationError):
    """Not raised here."""


class RuntimeIntrospectionError(ModelPackageNegotiationError):
    """Not raised here."""


class JetsonTypeResolutionError(RuntimeIntrospectionError):
    """Not raised here."""


class NoModelPackagesAvailableError(ModelPackageNegotiationError):
    """The model has no such package."""


class AmbiguousModelPackageResolutionError(ModelPackageNegotiationError):
    """Not raised here."""


class ModelLoadingError(BaseInferenceModelsError):
    """The model's files cannot be opened."""


class ModelPackageAlternativesExhaustedError(ModelLoadingError):
    """Not raised here."""

    def __init__(
        self,
        message: str,
        help_url: str | None = None,
        alternatives_errors: list[Exception] | None = None,
    ) -> None:
        super().__init__(message, help_url)
        self.alternatives_errors = alternatives_errors


class MissingModelInitParameterError(ModelLoadingError):
    """Not raised here."""


class InvalidModelInitParameterError(ModelLoadingError):
    """Not raised here."""


class InsecureModelIdentifierError(ModelLoadingError):
    """A file's name leads out of the folder that it is for."""


class DirectLocalStorageAccessError(ModelLoadingError):
    """A path was given where paths are not allowed."""


class ForbiddenLocalCodePackageAccessError(ModelLoadingError):
    """Not raised here: no folder's code is run."""


class ModelImplementationNotFoundError(ModelLoadingError):
    """The folder holds another model than this package knows."""


class CorruptedModelPackageError(ModelLoadingError):
    """The folder is incomplete, or what lies in it is damaged or of another model."""


class ModelPackageRestrictedError(ModelLoadingError):
    """Not raised here."""


class DependencyModelParametersValidationError(ModelLoadingError):
    """Not raised here."""


class ModelPipelineInitializationError(ModelLoadingError):
    """Not raised here."""


class ModelPipelineNotFound(ModelPipelineInitializationError):
    """Not raised here."""
