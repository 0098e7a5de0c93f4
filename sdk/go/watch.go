package keyvault

import (
	"os"
	"time"
)

// settled is for how long a changed file has to be unchanged before it counts: the first half of a token is a token too,
// and the first half of a bundle lacks roots.
const settled = time.Second

// stamp is by what a changed or replaced file is known.
type stamp struct {
	modified time.Time
	size     int64
	info     os.FileInfo
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size(), info}
}

// changed returns whether the file is another one than it was, and has settled.
func (s stamp) changed(path string) (now stamp, changed bool) {
	now = stampOf(path)
	if now.info == nil || s.info != nil && s.modified.Equal(now.modified) && s.size == now.size && os.SameFile(s.info, now.info) {
		return s, false
	}
	return now, time.Since(now.modified) >= settled
}
