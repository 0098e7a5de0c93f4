package keyvault

import (
	"os"
	"strconv"
	"syscall"
)

// hasACL returns whether a file has an access control list that says more than its mode.
func hasACL(file *os.File) bool {
	size, err := syscall.Getxattr("/proc/self/fd/"+strconv.Itoa(int(file.Fd())), "system.posix_acl_access", nil)
	return err == nil && size > 0
}
