"""Results as files and records that other tools read: palette label maps, COCO's formats of instances and segments."""
