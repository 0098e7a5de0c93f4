package keyvault

import (
	"os"
	"time"
)

// settled is for how long a changed file has to be unchanged before it counts: the first half of a token is a token too,
// and the first half of a bundle lacks roots.
const settled = time.Second

// changed returns whether a file is another one than before, nil for none, and has settled.
func changed(path string, before os.FileInfo) (now os.FileInfo, changed bool) {
	now, err := os.Stat(path)
	if err != nil || before != nil && before.ModTime().Equal(now.ModTime()) && before.Size() == now.Size() && os.SameFile(before, now) {
		return before, false
	}
	// A time in the future is that of a clock that is ahead: the file would not be used until then.
	return now, time.Since(now.ModTime()).Abs() >= settled
}
