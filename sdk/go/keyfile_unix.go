//go:build unix

package keyvault

import (
	"fmt"
	"os"
	"slices"
	"syscall"
)

// whyShared returns why an open file is not safe from others, as the end of a sentence that says what to do; "" if it is.
func whyShared(file *os.File, info os.FileInfo) string {
	about, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	mode := info.Mode().Perm()
	forbidden := os.FileMode(0o077)
	if isOurGroup(int(about.Gid)) && !hasACL(file) { // with a list, the bits of the group are those of all that it names
		forbidden = 0o007
	}
	switch {
	case mode&forbidden != 0:
		return fmt.Sprintf("has mode %04o, so others can read or write it: check that nobody did, then `chmod go-rwx` it", mode)
	case about.Uid != 0 && int(about.Uid) != os.Geteuid():
		return fmt.Sprintf("belongs to another user (uid %d), who can write it: `chown` it", about.Uid)
	}
	return ""
}

func isOurGroup(gid int) bool {
	groups, err := os.Getgroups()
	return gid == os.Getegid() || err == nil && slices.Contains(groups, gid)
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	err = folder.Sync()
	if closing := folder.Close(); err == nil {
		err = closing
	}
	return err
}
