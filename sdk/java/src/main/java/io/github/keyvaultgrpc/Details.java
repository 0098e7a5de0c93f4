package io.github.keyvaultgrpc;

/** What every exception of this library is made of. */
record Details(String message, String reason, String requestId, Throwable cause) {
    static Details of(String message) {
        return new Details(message, "", "", null);
    }

    Details because(Throwable why) {
        return new Details(message, reason, requestId, why);
    }

    static InvalidRequestException invalid(String message) {
        return new InvalidRequestException(of(message));
    }

    static InvalidRequestException invalid(String message, Throwable cause) {
        return new InvalidRequestException(of(message).because(cause));
    }

    static ServerFailureException serverFailure(String message) {
        return new ServerFailureException(of(message));
    }

    static ServerFailureException dishonest(String method, String what) {
        return serverFailure("the server answered " + method + " with " + what + ": do not use this server, and report it");
    }
}
