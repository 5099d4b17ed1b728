"""What can go wrong with an engine. Caller mistakes are ``ValueError`` and ``TypeError`` instead."""


class EngineError(RuntimeError):
    """An engine could not do its work; the message says which one, with what, and what to do."""


class PromptRejectedError(EngineError):
    """One prompt was refused; the other prompts of the batch are not affected."""


class PromptRefusedError(PromptRejectedError):
    """A safety filter before the server refused the prompt."""


class EngineUnreachableError(EngineError):
    """Nothing answers at the server's address, or it stopped answering."""


class PromptEmbedsDisabledError(EngineError):
    """The server was started without ``--enable-prompt-embeds``."""


class ModelNotServedError(EngineError):
    """The server does not serve the model that was asked for."""


class EngineOverloadedError(EngineError):
    """The server kept refusing work (429 or 503) after all retries."""


class EngineResponseError(EngineError):
    """The server answered with an error or with something that is not a completion."""


class ServerStartError(EngineError):
    """A vLLM server process did not come up; the message carries the last lines of its log."""
