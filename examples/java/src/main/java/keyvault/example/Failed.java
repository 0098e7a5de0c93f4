package keyvault.example;

import com.google.common.base.Throwables;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Durations;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.Objects;
import java.util.Set;

/**
 * A call that failed, and what the server's google.rpc.ErrorInfo says of it.
 *
 * <p>The rule of this file: what it returns is docs/clients.md's "Which answers settle a mutation". A revision in it is
 * a hint that nothing proves.
 */
final class Failed extends Vault.Refused {
    private static final long serialVersionUID = 1;

    /** KeyVault's reasons after which what was asked may have been done all the same. */
    private static final Set<String> UNSETTLED = Set.of("BACKEND_UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL");
    /** KeyVault's reasons with which it says when to try again; nothing was done. */
    private static final Set<String> LIMITED = Set.of("RATE_LIMITED", "BACKEND_THROTTLED");
    /** KeyVault's other reasons after which the same bytes may be accepted. */
    private static final Set<String> PASSING = Set.of("BACKEND_UNAVAILABLE", "DEADLINE_EXCEEDED", "SERVER_STOPPING");

    private final Status.Code code;
    private final String reason;
    private final long currentRevision;
    private final long rememberedSince;
    private final boolean vacant;
    private final long retryAfterMillis;

    private Failed(Status status, ErrorInfo info, long retryAfterMillis) {
        super(oneLine(status, info));
        code = status.getCode();
        reason = info.getReason();
        currentRevision = revisionOf(info.getMetadataOrDefault("current_revision", ""));
        rememberedSince = revisionOf(info.getMetadataOrDefault("remembered_since", ""));
        vacant = info.getMetadataOrDefault("vacant", "").equals("true");
        this.retryAfterMillis = retryAfterMillis;
    }

    static Failed of(StatusRuntimeException failed) {
        ErrorInfo info = ErrorInfo.getDefaultInstance();
        long retryAfterMillis = 0;
        try {
            for (Any detail : StatusProto.fromThrowable(failed).getDetailsList()) {
                if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("keyvault")) {
                    info = detail.unpack(ErrorInfo.class);
                } else if (detail.is(RetryInfo.class)) {
                    retryAfterMillis = Math.max(0, Durations.toMillis(detail.unpack(RetryInfo.class).getRetryDelay()));
                }
            }
        } catch (InvalidProtocolBufferException | IllegalArgumentException unreadable) {
            failed.addSuppressed(unreadable); // the status stands without its details
        }
        return new Failed(failed.getStatus(), info, retryAfterMillis);
    }

    /** Stable, as keyvault.proto lists them; empty if it was not KeyVault that answered. */
    String reason() {
        return reason;
    }

    /** How long the server wants to be left alone; 0 if it does not say so. */
    long retryAfterMillis() {
        return LIMITED.contains(reason) ? retryAfterMillis : 0;
    }

    /** With STALE_REVISION: the name was purged. */
    boolean vacant() {
        return vacant;
    }

    /** Whether it is known that the attempt changed nothing: KeyVault itself says so. */
    boolean settlesAttempt() {
        return !reason.isEmpty() && !UNSETTLED.contains(reason);
    }

    /** Whether the same bytes may be accepted later. */
    boolean allowsRetry() {
        if (!reason.isEmpty()) {
            return PASSING.contains(reason) || LIMITED.contains(reason);
        }
        return switch (code) { // gRPC's own, or a proxy's
            case UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED, UNKNOWN, INTERNAL -> true;
            default -> false;
        };
    }

    /** Whether the server would have known an envelope of this revision, had it ever accepted it. */
    boolean provesRefusalOf(long revision) {
        return (reason.equals("STALE_REVISION") || reason.equals("RECORD_EXISTS"))
                && rememberedSince >= 0
                && rememberedSince <= revision
                && revision <= currentRevision;
    }

    /** Returns -1 for what is not a revision. */
    private static long revisionOf(String text) {
        try {
            return Math.max(-1, Long.parseLong(text));
        } catch (NumberFormatException noRevision) {
            return -1;
        }
    }

    private static String oneLine(Status status, ErrorInfo info) {
        String reason = info.getReason().isEmpty() ? "" : " " + info.getReason();
        String message = Objects.requireNonNullElse(status.getDescription(), "no message");
        if (status.getCause() != null) {
            message += ": " + Throwables.getRootCause(status.getCause()).getMessage();
        }
        if (reason.isEmpty() && status.getCode() == Status.Code.UNIMPLEMENTED) {
            message += " (the server does not know this call: it is an older KeyVault, or another service)";
        }
        String request = info.getMetadataOrDefault("request_id", "");
        return status.getCode() + reason + ": " + message + (request.isEmpty() ? "" : " (request " + request + ")");
    }
}
