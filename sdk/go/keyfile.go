package keyvault

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// maxKeyFile is how many bytes a key file has at most.
const maxKeyFile = 64 << 10

// LoadDataKey reads a key file. On Unix it refuses one that another user owns, may read or may write, as ssh does; a
// group of this process may read it, as Kubernetes mounts a secret with fsGroup. Its error is an ErrInvalidRequest.
func LoadDataKey(path string) (*DataKey, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fileError(path, err)
	}
	if info.Mode().IsRegular() { // a shell makes pipes for <(...)
		if why := whyShared(file, info); why != "" {
			return nil, invalid("%s %s", printable(path), why)
		}
	}
	content, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, fileError(path, err)
	}
	if len(content) > maxKeyFile {
		return nil, invalid("%s: not a data key: larger than %d bytes", printable(path), maxKeyFile)
	}
	key, err := ParseDataKey(content)
	if err != nil {
		return nil, invalid("%s: %v", printable(path), err)
	}
	return key, nil
}

// Save writes a new file of mode 0600 that survives a crash. It never replaces a file: the error is then a
// [fs.ErrExist]. Where it fails, it leaves no partial file.
func (k *DataKey) Save(path string) error {
	return saved(path, func() error {
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return written(file, k.Reveal())
	})
}

// Replace replaces a key file by this key, as for a key that was rewrapped. The old one stays until this one is on the
// disk.
func (k *DataKey) Replace(path string) error {
	return saved(path, func() error {
		target, err := filepath.EvalSymlinks(path) // a symbolic link stays one
		if err != nil {
			return err
		}
		draft, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*") // of mode 0600
		if err != nil {
			return err
		}
		if err := written(draft, k.Reveal()); err != nil {
			return err
		}
		if err := os.Rename(draft.Name(), target); err != nil {
			return errors.Join(err, os.Remove(draft.Name()))
		}
		return nil
	})
}

// saved runs what writes a file, and makes its name durable.
func saved(path string, write func() error) error {
	err := write()
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return fileError(path, err)
	}
	return nil
}

// written writes and closes a file durably, or removes it.
func written(file *os.File, content []byte) error {
	_, err := file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}
