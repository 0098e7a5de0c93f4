package keyvault

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// invisible are the characters that unicode.IsPrint takes and a terminal does not show: Default_Ignorable_Code_Point of
// Unicode (UCD, DerivedCoreProperties.txt) without those of category Cf.
var invisible = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x034f, Hi: 0x034f, Stride: 1}, {Lo: 0x115f, Hi: 0x1160, Stride: 1}, {Lo: 0x17b4, Hi: 0x17b5, Stride: 1},
		{Lo: 0x180b, Hi: 0x180d, Stride: 1}, {Lo: 0x180f, Hi: 0x180f, Stride: 1}, {Lo: 0x3164, Hi: 0x3164, Stride: 1},
		{Lo: 0xfe00, Hi: 0xfe0f, Stride: 1}, {Lo: 0xffa0, Hi: 0xffa0, Stride: 1},
	},
	R32: []unicode.Range32{{Lo: 0xe0100, Hi: 0xe01ef, Stride: 1}},
}

// Printable returns a text for a terminal or a log, with what would move the cursor, begin a line, or hide or reorder
// something escaped. The errors of this package are printable already; this is for what else a program shows.
func Printable(text string) string { return printable(text) }

// printable escapes what a server or a proxy says, so that it moves no cursor, begins no line, and hides or reorders
// nothing in a log or on a terminal.
func printable(text string) string {
	var shown strings.Builder
	for rest := text; rest != ""; {
		one, size := utf8.DecodeRuneInString(rest)
		switch {
		case one == utf8.RuneError && size == 1:
			fmt.Fprintf(&shown, `\x%02x`, rest[0])
		case unicode.IsPrint(one) && !unicode.Is(invisible, one):
			shown.WriteRune(one)
		case one < 0x80:
			fmt.Fprintf(&shown, `\x%02x`, one)
		case one < 0x10000:
			fmt.Fprintf(&shown, `\u%04x`, one)
		default:
			fmt.Fprintf(&shown, `\U%08x`, one)
		}
		rest = rest[size:]
	}
	return shown.String()
}
