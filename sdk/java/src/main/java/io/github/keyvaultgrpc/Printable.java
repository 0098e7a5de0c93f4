package io.github.keyvaultgrpc;

/** Texts of a server, a proxy or a file's name, so that they move no cursor, begin no line, and hide or reorder nothing. */
final class Printable {
    private static final int MOST_QUOTED = 60;

    private Printable() {}

    /** Escapes what a log or a terminal does not show as it is. */
    static String printable(String text) {
        StringBuilder shown = new StringBuilder(text.length());
        text.codePoints().forEach(one -> {
            if (isShown(one)) {
                shown.appendCodePoint(one);
            } else if (one < 0x80) {
                shown.append("\\x").append(hex(one, 2));
            } else if (one < 0x10000) {
                shown.append("\\u").append(hex(one, 4));
            } else {
                shown.append("\\U").append(hex(one, 8));
            }
        });
        return shown.toString();
    }

    /** Returns a name as an error message shows it: quoted, printable, and at most 60 characters of it. */
    static String quote(String name) {
        String shown = name.length() > MOST_QUOTED ? name.substring(0, MOST_QUOTED) + "..." : name;
        return '"' + printable(shown).replace("\"", "\\\"") + '"';
    }

    private static String hex(int one, int digits) {
        String text = Integer.toHexString(one);
        return "0".repeat(Math.max(0, digits - text.length())) + text;
    }

    private static boolean isShown(int one) {
        return switch (Character.getType(one)) {
            case Character.CONTROL,
                    Character.FORMAT,
                    Character.SURROGATE,
                    Character.PRIVATE_USE,
                    Character.UNASSIGNED,
                    Character.LINE_SEPARATOR,
                    Character.PARAGRAPH_SEPARATOR -> false;
            case Character.SPACE_SEPARATOR -> one == ' ';
            default -> !isInvisible(one);
        };
    }

    /** Default_Ignorable_Code_Point of Unicode (UCD, DerivedCoreProperties.txt) without those of category Cf. */
    private static boolean isInvisible(int one) {
        return one == 0x034f
                || one == 0x115f
                || one == 0x1160
                || one == 0x17b4
                || one == 0x17b5
                || one >= 0x180b && one <= 0x180f
                || one == 0x3164
                || one >= 0xfe00 && one <= 0xfe0f
                || one == 0xffa0
                || one >= 0xe0100 && one <= 0xe01ef;
    }
}
