package io.github.keyvaultgrpc;

/**
 * A failure of this library. Its class says what a program can do; every failure is of one class only, or of one and its
 * parent. It holds no secret, and what a server says in it is printable.
 */
public class KeyVaultException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final String reason;
    private final String requestId;

    KeyVaultException(Details details) {
        super(details.message(), details.cause());
        this.reason = details.reason();
        this.requestId = details.requestId();
    }

    /** Returns the server's {@code google.rpc.ErrorInfo.reason}, "" if this library found the error. */
    public String reason() {
        return reason;
    }

    /**
     * Returns the code with which a command ends after this failure, as {@code keyvault} does: 2 bad usage, 3 not found, 4
     * conflict, 5 denied, 6 unavailable (nothing was written), 7 outcome unknown, 130 interrupted, 1 any other. An
     * {@link InvalidRequestException} is bad usage unless the server found it.
     */
    public int exitCode() {
        return 1;
    }

    /** Returns what finds the call in the server's log, "" if the server does not say. */
    public String requestId() {
        return requestId;
    }
}
