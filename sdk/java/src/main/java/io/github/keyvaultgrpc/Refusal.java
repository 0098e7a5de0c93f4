package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Printable.printable;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.keyvaultgrpc.v1.BatchReadResponse;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.EnumSet;
import java.util.Map;
import java.util.Set;

/**
 * A status with KeyVault's google.rpc.ErrorInfo, or an item's error of a BatchRead, or with reason "" a status of gRPC or a
 * proxy. The last may come after the server did what was asked: it settles nothing, and says neither when to retry nor
 * which revision is stored.
 */
record Refusal(Status.Code code, String message, String reason, Map<String, String> metadata, Duration retryAfter) {
    private static final String DOMAIN = "keyvault";
    private static final Metadata.Key<byte[]> DETAILS =
            Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);
    /** Codes of a status that is not KeyVault's after which the same bytes may succeed. */
    static final Set<Status.Code> PASSING = EnumSet.of(
            Status.Code.UNAVAILABLE,
            Status.Code.CANCELLED,
            Status.Code.DEADLINE_EXCEEDED,
            Status.Code.UNKNOWN,
            Status.Code.INTERNAL);
    private static final Set<String> UNSETTLED = Set.of("BACKEND_UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL");

    /** Returns what a status means that answered a request which was sent. */
    static Failure of(Status status, Metadata trailers) {
        String message = status.getDescription() == null ? "no message" : status.getDescription();
        Throwable why = status.getCause();
        if (why != null && why.getMessage() != null) {
            message += ": " + why.getMessage();
        }
        ErrorInfo info = ErrorInfo.getDefaultInstance();
        Duration retryAfter = Duration.ZERO;
        byte[] details = trailers == null ? null : trailers.get(DETAILS);
        try {
            for (Any detail : com.google.rpc.Status.parseFrom(details == null ? new byte[0] : details).getDetailsList()) {
                if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals(DOMAIN)) {
                    info = detail.unpack(ErrorInfo.class);
                } else if (detail.is(RetryInfo.class)) {
                    retryAfter = duration(detail.unpack(RetryInfo.class).getRetryDelay());
                }
            }
        } catch (InvalidProtocolBufferException malformed) {
            info = ErrorInfo.getDefaultInstance(); // of nobody that is known
        }
        return new Refusal(status.getCode(), message, info.getReason(), info.getMetadataMap(), retryAfter).failure(why);
    }

    /** Returns what the error of one Read of a batch means. */
    static Failure of(BatchReadResponse.Error item) {
        Refusal said = new Refusal(
                Status.fromCodeValue(item.getCode()).getCode(),
                item.getMessage(),
                item.getReason(),
                item.getMetadataMap(),
                duration(item.getRetryDelay()));
        return said.failure(null);
    }

    private static Duration duration(com.google.protobuf.Duration asked) {
        try {
            return Duration.ofSeconds(asked.getSeconds(), asked.getNanos());
        } catch (ArithmeticException overflow) {
            return Duration.ofSeconds(Long.MAX_VALUE);
        }
    }

    private Failure failure(Throwable cause) {
        KeyVaultException error = error(cause);
        boolean busy = error instanceof BusyException;
        if (reason.isEmpty()) {
            return new Failure(error, false, PASSING.contains(code), Duration.ZERO);
        }
        boolean retry = error instanceof UnavailableException || busy && !reason.equals("STORE_FULL");
        return new Failure(error, !UNSETTLED.contains(reason), retry, busy ? wait(retryAfter) : Duration.ZERO);
    }

    private static Duration wait(Duration asked) {
        return asked.isNegative() ? Duration.ZERO : asked;
    }

    private KeyVaultException error(Throwable cause) {
        Details said = new Details(line(), printable(reason), printable(metadata.getOrDefault("request_id", "")), cause);
        long current = revision("current_revision");
        long since = revision("remembered_since");
        return switch (reason) {
            case "" -> foreign(said);
            case "RECORD_EXISTS" -> new AlreadyExistsException(said, current, since);
            case "STALE_REVISION" ->
                new ConflictException(said, current, since, metadata.getOrDefault("vacant", "").equals("true"));
            case "REVISION_NOT_FOUND" -> new RevisionNotFoundException(said, Math.max(0, current));
            case "NOT_AUTHORIZED" -> new NotAuthorizedException(said);
            case "BAD_PAGE_TOKEN" -> new BadPageTokenException(said);
            default -> ours(said);
        };
    }

    private KeyVaultException ours(Details said) {
        return switch (code) {
            case INVALID_ARGUMENT -> new InvalidRequestException(said);
            case NOT_FOUND -> new NotFoundException(said);
            case PERMISSION_DENIED, UNAUTHENTICATED -> new DeniedException(said);
            case FAILED_PRECONDITION -> new MasterKeyUnusableException(said);
            case UNAVAILABLE, DEADLINE_EXCEEDED -> new UnavailableException(said);
            case DATA_LOSS -> new RecordDamagedException(said);
            case RESOURCE_EXHAUSTED -> new BusyException(said, wait(retryAfter));
            default -> new ServerFailureException(said);
        };
    }

    private KeyVaultException foreign(Details said) {
        if (PASSING.contains(code)) {
            return new UnavailableException(said);
        }
        return switch (code) {
            case PERMISSION_DENIED, UNAUTHENTICATED -> new DeniedException(said);
            case RESOURCE_EXHAUSTED -> new BusyException(said, Duration.ZERO);
            default -> new ServerFailureException(said);
        };
    }

    /** Returns {@code STATUS REASON: message (request ID)}. */
    private String line() {
        String text = code + (reason.isEmpty() ? "" : " " + printable(reason)) + ": " + printable(message);
        String id = metadata.getOrDefault("request_id", "");
        if (!id.isEmpty()) {
            text += " (request " + printable(id) + ")";
        }
        if (reason.isEmpty() && code == Status.Code.UNIMPLEMENTED) {
            text += " (the server does not know this call: it is an older KeyVault, or another service)";
        }
        return text;
    }

    /** Returns a revision in decimal, 0 included; UNSAID for anything else, of whatever length. */
    private long revision(String name) {
        try {
            return Math.max(WrongRevisionException.UNSAID, Long.parseLong(metadata.getOrDefault(name, "")));
        } catch (NumberFormatException unsaid) {
            return WrongRevisionException.UNSAID;
        }
    }
}
